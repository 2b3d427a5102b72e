"""Measuring detectors: data whose truth is known, figures of merit, tables and pictures. No detector imports it."""
