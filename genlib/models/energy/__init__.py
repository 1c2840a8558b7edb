"""Energy models: restricted Boltzmann machines and what is stacked of them."""
