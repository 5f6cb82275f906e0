"""What the tests of models share: small models, golden results, second writings, other libraries' names."""
