"""How far an answering worker is with what it was asked, and how long it may be silent there.

The worker says `at` whenever it comes to the next part; the app ends one that is silent for longer.
"""

STARTING = "starting"  # the process, until its libraries are imported
READY = "ready"  # it has not taken the request up yet: it must be done with the one before
LOADING = "loading"  # tokenizer and weights, from the Hub perhaps; an engine's start
RENDERING = "rendering"  # the chat template, which is code that came with the model
ANSWERING = "answering"  # between two words, or two updates

SILENCE = {STARTING: 600.0, READY: 30.0, LOADING: 3600.0, RENDERING: 60.0,
           ANSWERING: 600.0}  # seconds
STOPPED = 10.0  # seconds that a worker may go on after a person pressed Stop

DOING = {STARTING: "It did not start.", READY: "It did not end what it was asked before.",
         LOADING: "It did not come to an end of loading the model.",
         RENDERING: "The model's chat template did not come to an end: it may loop for ever.",
         ANSWERING: "No word came from the model."}
