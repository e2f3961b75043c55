"""What every request crosses, whichever contract answers it."""
