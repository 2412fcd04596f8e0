"""`kd plan`: what a run will take, from some of its steps."""
