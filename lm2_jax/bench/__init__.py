"""What is measured for speed."""
