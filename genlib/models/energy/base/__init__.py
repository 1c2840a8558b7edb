"""What restricted Boltzmann machines share."""
