"""What variational autoencoders share: likelihoods, and the factors that a data set varies."""
