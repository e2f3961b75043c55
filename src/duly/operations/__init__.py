"""What an operator needs: health, checks at the start, and the doctor's report."""
