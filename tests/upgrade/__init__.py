"""From the chart that others first installed to this one, and back, beside a training: `make upgrade`."""
