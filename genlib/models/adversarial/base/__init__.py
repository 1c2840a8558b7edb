"""What adversarial families share: the two players, the collapse monitor, scores and pictures."""
