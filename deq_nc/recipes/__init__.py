"""One recipe a file: its docstring says what it is, the command, what it costs and what to expect; it defines
`experiment`, an `Experiment` whose fields the command line may override. A file `_name.py` is no recipe.
"""
