"""From a recipe to objects: data, teachers, student, method, stored logits, runtime."""
