"""The main job: load → score → stage → commit, on Ray Data."""
