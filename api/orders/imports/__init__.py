"""Orders that come with a history of their own: a file is read, compared with what is stored, and stored."""
