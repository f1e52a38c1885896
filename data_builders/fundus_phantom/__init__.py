"""fundus_phantom."""
