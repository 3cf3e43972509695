"""Everything on one machine: prices, a paper broker, and the gateway with its live page.

Read `broker.py` to see how an engine uses each part of the layer.
"""
