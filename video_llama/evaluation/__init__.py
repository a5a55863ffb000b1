"""Evaluation: questions with known answers in, answers, figures with intervals, and comparisons of two runs out.

video-llama evaluate questions.jsonl --output results
"""
