"""Coverage-guided fuzzing of everything that reads files made elsewhere; see README.md here."""
