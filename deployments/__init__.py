"""What runs where and when: the commands, the deployments and one file for each line."""
