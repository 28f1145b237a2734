"""The rating room: people read texts of runs, blind, and say how good they are.

Plan -> frozen texts -> items -> an order for each rater -> answers -> report and exports.

The modules, each of which may import those above it:
    records        what is shown to a rater; ratings, preferences, checks
    rubric         the project's rubric, training items, sentences of attention checks
    study          study.yaml: the plan, checked
    order          items, and the balanced order of each rater
    answers        answers checked, turned, compared
    database       the SQLite database of a study
    store          the folder of a study: everything that reads or writes it
    texts          lets the systems write their texts, before the first rater comes
    terminal       rating in a terminal
    card           the card of an export
    exports        tables of all answers; pairs for data=preferences
    imports        ratings made elsewhere, from a CSV file
    judge          a model as rater, behind an endpoint of OpenAI's shape
    room           the web application: pages of the raters and of the owner
    statistics     agreement, means, strengths, raters, power: records -> results
    figures        results -> PNG files, light and dark
    blocks         results -> the sentences and tables of the report
    report         a study -> results -> its page
"""
