"""Distillation methods: one file each, the file's name is the method's name.

A file holds, in this order: a docstring (title line, `Paper:`, `Reference code:`, the equation,
`Differs from the paper:`), FAMILY, `class Options` if the method has any, and one subclass of
`kdcli.core.method.Method`. Class attributes are literals: listings read them without importing
torch. `cacheable = True` promises that nothing but the teacher's logits is asked for; `labels_for`
says what a label of every picture is needed for, where more than the cross-entropy reads labels.
"""
