"""Where the application runs: in this process, or as replicas of Ray Serve."""
