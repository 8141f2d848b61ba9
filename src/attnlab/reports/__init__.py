"""What is drawn: pages, figures, tables."""
