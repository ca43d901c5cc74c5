"""What is published: the wheel, both images with what is in them, the chart. Nothing here is installed anywhere."""
