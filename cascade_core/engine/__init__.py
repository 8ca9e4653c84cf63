"""The parent side: sessions in, clean latent blocks out."""
