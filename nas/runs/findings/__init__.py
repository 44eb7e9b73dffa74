"""What a search found, in words: operators on the front, what they cost, what is within noise, what to pick."""
