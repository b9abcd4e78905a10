"""The networks and what they minimise: VAE, latent mapper, guided decoder, their baselines and their losses."""
