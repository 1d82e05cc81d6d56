"""A store → the forms that other tools open: data sets, databases, tables, files beside the images."""
