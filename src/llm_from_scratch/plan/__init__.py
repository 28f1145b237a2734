"""The plan of a training before it begins: memory, epochs, time and disk.

sizes (models, texts, devices) -> measuring (seconds of real steps) -> table (numbers as text) ->
warnings -> estimate (the plan)
"""
