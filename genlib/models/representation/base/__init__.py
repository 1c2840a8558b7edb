"""What families of representation share: CLIP's towers."""
