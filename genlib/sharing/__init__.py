"""What leaves a run for others: folders in the field's formats, each with its card; ONNX files; a repository on a model hub.

formats.py       what an exporter says of each folder that it wrote
card.py          one README.md for all families
onnx_files.py    graphs written and compared with ours by onnxruntime
hub.py           a folder as a repository on the Hugging Face hub
"""
