"""What diffusion families share: the process and its loss, samplers by name, U-Nets, and the tasks in pixels and in latents."""
