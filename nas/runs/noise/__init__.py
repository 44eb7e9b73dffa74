"""How far a measured accuracy can be trusted: trials trained again, and what their scatter says of the front."""
