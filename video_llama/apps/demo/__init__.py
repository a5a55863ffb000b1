"""The web demo, built with Gradio: chat about videos, images and audio, and inspect the input of the model.

``serving.py`` starts and stops the web server, ``page.py`` defines the layout, ``handlers.py`` handles the events of
the page, ``visitors.py`` keeps the conversation and the files of each visitor, ``pictures.py`` renders frames, mel
spectrograms and attention maps. Importing this package does not import gradio.
"""
