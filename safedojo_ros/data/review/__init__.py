"""A person confirms or corrects which steps of a data set have contact."""
