"""The plan of a training: memory, passes over the text, time and disk, before it begins.

sizes (models, texts, devices) -> measuring (seconds of real steps) -> table (words for numbers) ->
warnings -> estimate (the plan)
"""
