"""Bring your own: what does a model lean on, on these images, how sure is that, and how is it repaired?

The way through: `run` reads images and asks the model, `findings` says what it leans on, `robustness` how far that
hangs on seeds and regions, `repairing` trains it off it, `report` and `export` write down what came out.
"""
