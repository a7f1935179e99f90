"""The step that moves a cloud or a mesh, what it can be told, and what lets it go on."""
