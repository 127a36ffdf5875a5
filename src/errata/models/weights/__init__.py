"""The weights of a block in one orientation, and what a matrix must write for the stream to get what is wanted."""
