"""Language about single images: what teachers say of the object and, apart from it, of the background."""
