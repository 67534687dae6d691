"""What is stored: where it lies, how it is written, checked and read."""
