"""The only code that makes things happen: claims become visits, visits ask, deliver and write down.

Read work -> visit -> core/decide -> deliver -> edges/ledger to follow one generation. The doors and the daemon call in
here.
"""
