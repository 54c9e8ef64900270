"""`sgm explain`: each value of a config, and where it came from."""
