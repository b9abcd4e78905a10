"""Interactive pictures for the lessons: a drawing function and up to four controls."""
