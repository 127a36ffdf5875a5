"""Running a model: whole, in part, backwards, held at places, generating; rows packed by length."""
