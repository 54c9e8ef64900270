"""What `sgm new` starts from: a small working component of each kind and its test, KIND.py and test_KIND.py.

They are ordinary modules, so that linter and type checker read them. `package.py` beside this folder copies them with
other names: ExampleEmbedder, `example`, "sgm-example" and this package's name.
"""
