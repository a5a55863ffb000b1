"""Wordings of every kind of question about the miniature's clips. ``questions`` fills in the placeholders ``{}``:
colour or color, first or second, or both.
"""

from __future__ import annotations

DESCRIBE = (
    "What do you see?",
    "What can you see?",
    "What happens?",
    "What happens in the video?",
    "What is happening?",
    "Describe the video.",
    "Describe what you see.",
    "What is in the video?",
    "What does the video show?",
)
DESCRIBE_IMAGE = (
    "What do you see?",
    "What can you see?",
    "Describe the picture.",
    "Describe this image.",
    "What is in the picture?",
    "What does the image show?",
    "Describe what you see.",
)
COLOUR_OF_ONE = (
    "What {} is it?",
    "What {} is the shape?",
    "What {} is the object?",
    "Which {} is the shape?",
    "What is the {} of the shape?",
    "What is the {} of the object?",
    "Which {} does it have?",
)
COLOUR_OF_ORDINAL = (
    "What {} is the {} shape?",
    "What is the {} of the {} shape?",
    "What {} is the {} one?",
    "Which {} has the {} shape?",
)
SHAPE_OF_ONE = (
    "What shape is it?",
    "Which shape is it?",
    "What shape do you see?",
    "Which shape do you see?",
    "What is the shape of the object?",
    "What shape is in the video?",
    "What is it?",
)
SHAPE_OF_ORDINAL = (
    "What is the {} shape?",
    "Which shape is the {} one?",
    "What shape is the {} one?",
    "What shape is the {} object?",
)
MOTION = (
    "How does it move?",
    "How does the shape move?",
    "Which way does it move?",
    "Where does it go?",
    "Which way does the object go?",
    "In which direction does it move?",
    "What does the shape do?",
    "What is the motion?",
)
MOTION_OF_TWO = ("How do they move?", "How do the shapes move?", "Which way do they move?", "Where do they go?")
ORDER = {
    "first": (
        "What comes first?",
        "Which shape comes first?",
        "What appears first?",
        "Which shape appears first?",
        "What do you see first?",
        "What is at the beginning?",
    ),
    "second": (
        "What comes second?",
        "Which shape comes second?",
        "What appears second?",
        "Which shape appears second?",
        "What comes next?",
        "What comes after it?",
        "What comes last?",
        "What appears last?",
        "What do you see at the end?",
    ),
}
COUNT = (
    "How many shapes are there?",
    "How many shapes do you see?",
    "How many objects are there?",
    "How many objects do you see?",
    "Is there one shape or two?",
)
HEAR = (
    "What do you hear?",
    "What can you hear?",
    "What can be heard?",
    "What is the sound?",
    "Describe the sound.",
    "What sound is it?",
    "What does it sound like?",
    "Which sound do you hear?",
)
ANY_SOUND = (
    "Is there any sound?",
    "Is there a sound?",
    "Do you hear anything?",
    "Do you hear a sound?",
    "Can you hear anything?",
)
SOURCE = (
    "What makes the sound?",
    "Which shape makes the sound?",
    "What shape makes the sound?",
    "Where does the sound come from?",
    "What is the source of the sound?",
    "Which shape do you hear?",
)
MATCH = (
    "Does the sound match the picture?",
    "Does the sound match the video?",
    "Does the sound match what you see?",
    "Does the sound fit the picture?",
    "Does the sound fit what you see?",
    "Do the sound and the picture match?",
)
BOTH = (
    "What do you see and hear?",
    "What do you see and what do you hear?",
    "Describe what you see and hear.",
    "Describe the video and the sound.",
)
CHAT = (
    (("Hello.", "Hi.", "Hello!", "Hi!", "Good morning."), "Hello. Show me a video and ask me about it."),
    (
        ("What can you do?", "What do you know?", "How can you help me?", "What can I ask?"),
        "I can tell you which shapes I see, how they move and what I hear.",
    ),
    (("Who are you?", "What are you?", "What is your name?"), "I am a small Video-LLaMA."),
    (("Thank you.", "Thanks.", "Thank you!", "Thanks!"), "You are welcome."),
    (("Goodbye.", "Bye.", "Goodbye!"), "Goodbye."),
)
