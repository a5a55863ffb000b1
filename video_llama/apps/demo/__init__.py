"""The web page: talk about videos, images and sounds in a browser, and see what the model was given.

``serving.py`` starts and stops it, ``page.py`` lays it out, ``handlers.py`` answers its events, ``visitors.py`` keeps
each visitor's conversation and files, ``pictures.py`` draws frames, mel spectrograms and where the queries looked.
Gradio is imported by the first three alone, and not with this package.
"""
