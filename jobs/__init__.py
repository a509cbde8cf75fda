"""What you run. Start reading with `train.py`: one page, the loop of every training run.

train.py      the loop
run/          a run in progress, behind the verbs of the loop
curricula/    where the examples of a step come from
config/       the configuration; cli.py: the command line
recipes/      settings to start from
checks/       what is known before anything starts; doctor
report/ data/ compare/ sweep/ view/ simulation/ evaluate.py quickstart.py init_model.py: beside the training
"""
