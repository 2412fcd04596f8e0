"""What the responses of teacher and student say about the gap between them."""
