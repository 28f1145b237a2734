"""What a training will take, before it begins.

sizes (models, texts, devices) -> measuring (seconds of real steps) -> table (words for numbers) -> warnings -> estimate (the plan)
"""
