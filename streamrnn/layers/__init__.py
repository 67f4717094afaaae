"""Models that are a list of layers: options, plan and weights, apart from any library that computes them.

A backend of its own declares options that extend `options.LayersConfig`, describes with `plan.describe`, and
builds from a `loading.LoadedModel`.
"""
