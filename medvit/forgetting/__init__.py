"""Deletion of a patient: what contains data of the patient on disk, and its removal from artifacts and crosswalks."""
