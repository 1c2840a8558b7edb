"""What adversarial families share: the two players, scores and pictures."""
